"""Which entry of labelled examples goes into which input of a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_embcam.network.inputs import declared_inputs

Examples = dict[str, np.ndarray]
LABEL_NAMES = ("y", "target", "targets", "class", "classes")


def list_fit_inputs(element: Any) -> list[str] | None:
    """Return the names of the inputs in ``({"image": ..., "meta": ...}, labels)``.

    None for other forms, which do not separate inputs from other entries.
    """
    is_pair = isinstance(element, tuple) and len(element) in (2, 3)
    if is_pair and isinstance(element[0], Mapping):
        return sorted(element[0])
    return None


class ModelInputs:
    """The inputs of a model, filled from labelled examples.

    An input takes the entry of its own name, or of its place where the examples are
    tuples. Else the only image input takes "image", and an input that is named after
    labels takes "label", in the person's own numbers (the label as an input, as in
    Keras implementations of ArcFace).

    Args:
        model: whose inputs they are.
        entries: the names of what the examples have.
        fit_inputs: see `list_fit_inputs`; for models that do not state their inputs.
        name: of the argument that holds the examples, for messages.

    Attributes:
        used: the names of the entries that the model takes.

    Raises:
        ValueError: where an input finds no entry.
    """

    def __init__(
        self,
        model: keras.Model,
        entries: Iterable[str],
        fit_inputs: Sequence[str] | None,
        name: str,
    ) -> None:
        entries = list(entries)
        declared = declared_inputs(model)
        self._declared = tree.flatten(declared) if declared is not None else None
        self._structure = declared
        if self._declared is None:
            # A subclassed model does not declare its inputs: pass on what `fit` would.
            several = fit_inputs is not None and len(fit_inputs) > 1
            keys = list(fit_inputs or ()) if several else ["image"]
            self._structure = dict.fromkeys(keys, 0) if several else 0
            self.used = [key if key in entries else "image" for key in keys]
            return
        names = _names_of(declared)
        image_inputs = [i for i, x in enumerate(self._declared) if len(x.shape) == 4]
        self.used = []
        missing = []
        for number, own_names in enumerate(names):
            fitting = [x for x in (*own_names, f"input {number}") if x in entries]
            is_named_after_labels = any(
                "label" in x.lower() or x.lower() in LABEL_NAMES for x in own_names
            )
            if fitting:
                self.used.append(fitting[0])
            elif image_inputs[:1] == [number] and "image" not in self.used:
                self.used.append("image")
            elif is_named_after_labels and "label" in entries:
                self.used.append("label")
            else:
                missing.append(own_names[0])
        if missing:
            raise ValueError(
                f"The model takes the inputs {[x[0] for x in names]}, and `{name}` has "
                f"nothing for {missing}. Add an entry of this name to each example. "
                f"Received: {sorted(entries)}"
            )

    def fill(self, examples: Examples, own_labels: Callable[[], np.ndarray]) -> Any:
        """Return what the model takes, in the structure of its inputs.

        Args:
            examples: a batch.
            own_labels: returns the labels (n,) of the batch as they were given.
        """
        arrays = [
            own_labels() if key == "label" else examples[key] for key in self.used
        ]
        if self._declared is not None:
            arrays = [
                x[:, None] if x.ndim == 1 and len(tensor.shape) == 2 else x
                for x, tensor in zip(arrays, self._declared, strict=True)
            ]
        return tree.pack_sequence_as(self._structure, arrays)

    def put_back(self, inputs: Any, examples: Examples) -> Examples:
        """Return a batch whose entries are what went into the model."""
        fitted = dict(zip(self.used, tree.flatten(inputs), strict=True))
        fitted.pop("label", None)
        return {**examples, **fitted}


def _names_of(declared: Any) -> list[list[str]]:
    """Return the names that each input goes by: the key in a dict, and its own."""
    own = [[x.name] for x in tree.flatten(declared)]
    if not isinstance(declared, dict):
        return own
    keys = sorted(declared)  # the order in which `tree` flattens dicts
    return [[key, *names] for key, names in zip(keys, own, strict=True)]
