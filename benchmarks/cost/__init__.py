"""What explanations cost, beside other libraries."""
