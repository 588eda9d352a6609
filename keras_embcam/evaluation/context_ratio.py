"""Whether the object or its background decides what a search returns, for a report."""

from keras_embcam.evaluation.measure import Measured
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.retrieval.context import measure_context


def measure_context_ratio(context: Context) -> Measured:
    """Return the context ratios of the model, which are the same for all methods.

    Raises:
        ValueError: for examples without labels, or without boxes and masks.
    """
    found = measure_context(
        context.model, context.stream, context.embedding_method, context.objects
    )
    settings = {
        f"context ratio ({row.cover} cover, {row.sides})": f"{row.ratio:.3f} = "
        f"Recall@1 {row.object_covered:.3f} without the object / "
        f"{row.background_covered:.3f} without the background"
        for row in found.rows
    }
    settings["Recall@1"] = f"{found.recall:.3f} (chance {found.chance:.3f})"
    notes = []
    if found.num_left_out:
        notes.append(
            f"{found.num_left_out} images have no object, or nothing else, to cover: "
            "they are left out of the context ratio."
        )
    return Measured([{} for _ in context.methods], notes=notes, settings=settings)
