"""``python -m keras_embcam`` is the command ``embcam``."""

from keras_embcam.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
