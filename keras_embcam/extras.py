"""Libraries that only some of the package's extras install."""

import importlib
from typing import Any


def import_extra(module: str, extra: str, needs: str) -> Any:
    """Return a library that one of the extras installs.

    Args:
        module: its name, or that of a part of it.
        extra: the name of the extra, such as "evaluation".
        needs: what needs which library, the beginning of the message.

    Raises:
        ImportError: where it is missing, with what to install.

    Example:

    >>> import_extra("math", "demo", "The demo needs math").floor(1.5)
    1
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{needs}, which is not installed. Install the extra: "
            f'pip install "keras-embcam[{extra}]".'
        ) from error
