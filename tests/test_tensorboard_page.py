"""What a person sees: TensorBoard in a real browser, on a log of a real training."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.losses import TripletSemiHardLoss

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (pip install -e .[dev])"
)
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    model.compile("adam", TripletSemiHardLoss())
    rng = np.random.default_rng(0)
    examples = {
        "image": rng.random((12, 32, 32, 3), "float32"),
        "label": np.arange(12) % 3,
        "bbox": np.tile(np.float32([0.25, 0.25, 0.75, 0.75]), (12, 1)),
    }
    logger = EmbeddingCAMLogger(
        folder, examples, num_images=12, projector=True, strict=True
    )
    model.fit(
        examples["image"],
        examples["label"],
        epochs=3,
        verbose=0,
        callbacks=[logger, keras.callbacks.TensorBoard(folder)],
    )
    return folder


@pytest.fixture(scope="module")
def address(log_dir):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--samples_per_plugin", "images=1000"]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(address + "/data/runs", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=FLAGS.split(),
            viewport={"width": 1400, "height": 1000},
        )
        yield context.new_page()
        context.close()


def keep(page, name):
    """Write a screenshot where the environment asks for it, to be looked at."""
    folder = os.environ.get("KERAS_EMBCAM_SCREENSHOTS")
    if folder:
        page.screenshot(path=os.path.join(folder, f"{name}.png"))


def test_overlays_show_with_a_step_slider(page, address):
    page.goto(f"{address}/#images")
    page.get_by_text("heatmaps/00").first.wait_for(timeout=PATIENCE)
    image = page.locator("tf-image-loader img").first
    image.wait_for(timeout=PATIENCE)
    page.wait_for_function(
        "image => image.naturalWidth == 192", arg=image.element_handle()
    )
    assert page.locator("tf-image-loader paper-slider").first.is_visible()
    keep(page, "images")


def test_the_ratio_and_the_uniform_baseline_share_a_chart(page, address):
    page.goto(f"{address}/#timeseries")
    card = page.locator("card-view", has_text="epoch_heatmap_ratio_bbox").first
    card.scroll_into_view_if_needed(timeout=PATIENCE)
    card.locator("line-chart").wait_for(timeout=PATIENCE)
    for run in ("uniform_baseline", "validation"):
        page.get_by_text(run).first.wait_for(timeout=PATIENCE)
    keep(page, "timeseries")


def test_the_projector_shows_the_overlays_as_sprites(page, address):
    with page.expect_response(
        lambda response: "/projector/sprite_image" in response.url, timeout=PATIENCE
    ) as response:
        page.goto(f"{address}/#projector")
    assert response.value.ok
    points = page.frames[-1].locator(".numDataPoints", has_text=re.compile("^12$"))
    points.wait_for(timeout=PATIENCE)
    keep(page, "projector")
