"""Look at any Keras model, run it once, and differentiate what follows a layer."""
