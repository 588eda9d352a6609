"""explain() compiles once, keeps nothing alive and differentiates the head only."""

import gc
import threading
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from two_convolutions import SIZE, WIDTH, make_images, make_model, make_vectors

from keras_embcam import EmbeddingCAM, explain, explain_batches
from keras_embcam.running import compiled_functions as module


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return make_model()


def count_traces(model: keras.Model) -> int:
    return sum(x.num_traces for x in module.list_compiled(model))


def test_one_trace_serves_all_batches_and_calls() -> None:
    model = make_model()
    explain(model, make_images(), batch_size=2)  # the last batch is shorter
    assert count_traces(model) == 1
    explain(model, make_images(3), batch_size=3)
    explain(model, tf.data.Dataset.from_tensor_slices(make_images()), batch_size=4)
    assert count_traces(model) == 1
    for vectors in (make_vectors(), make_vectors(5), 2 * make_vectors(5)):
        explain(model, make_images(), proxies=vectors, batch_size=2)
    explain(model, make_images(), target_class=2)
    assert count_traces(model) == 2
    for _ in range(2):
        explain(model, make_images(), proxies=make_vectors(5, 3), batch_size=2)
        explain(model, make_images(), weighting="layercam")
    assert count_traces(model) == 4


def test_what_is_compiled_is_bounded(monkeypatch) -> None:
    """Also where each call brings another function, or another weighting."""
    monkeypatch.setattr(module, "MAX_COMPILED", 3)
    model = make_model()
    for factor in range(1, 7):
        explain(model, make_images(1), proxies=lambda y, f=factor: f * y)
        assert count_traces(model) <= 4
    for factor in range(1, 7):
        explain(model, make_images(1), weighting=lambda a, g, f=factor: f * g)
        assert len(module.list_compiled(model)) <= 3


def test_changed_weights_show() -> None:
    model = make_model()
    before = explain(model, make_images())
    model.set_weights([0.5 - weight for weight in model.get_weights()])
    after = explain(model, make_images())
    assert count_traces(model) == 1
    assert np.abs(before - after).max() > 1e-2
    np.testing.assert_allclose(after, EmbeddingCAM(model)(make_images())[1], atol=1e-6)


def test_changed_layers_show() -> None:
    """A Sequential model can lose and gain layers."""
    stack = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(WIDTH)]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *stack])
    explain(model, make_images())
    for change in (model.pop, lambda: model.add(layers.Dense(3))):
        change()
        details = explain(model, make_images(), details=True)
        expected = model(make_images())  # Keras's predict keeps its old trace
        np.testing.assert_allclose(details.embeddings, expected, atol=1e-6)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()])
        self.dense = layers.Dense(WIDTH)

    def call(self, images):
        return self.dense(ops.mean(self.backbone(images), axis=(1, 2)))


def make_kind(kind: str) -> keras.Model:
    if kind == "functional":
        return make_model()
    if kind == "subclassed":
        return Subclassed()
    stack = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(WIDTH)]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *stack])
    if kind == "sequential":
        return model
    return keras.Sequential([model, layers.Dense(WIDTH)])


@pytest.mark.parametrize("kind", ["functional", "sequential", "nested", "subclassed"])
def test_a_discarded_model_is_freed(kind) -> None:
    model = make_kind(kind)
    explain(model, make_images())
    explain(model, make_images(), proxies=lambda y: 2 * y, weighting="layercam")
    num_kept = len(module._kept)
    references = [weakref.ref(x) for x in (model, model.weights[0])]
    del model
    gc.collect()  # the model, and with it what is compiled
    gc.collect()  # the weights that the compiled functions held
    assert [reference() for reference in references] == [None, None]
    assert len(module._kept) < num_kept


def test_four_threads_at_once() -> None:
    model = make_model()
    expected = {
        name: explain(model, make_images(), weighting=name)
        for name in ("gradcam", "layercam")
    }
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    results, errors = {}, []
    start = threading.Barrier(4)

    def work(index: int) -> None:
        name = ["gradcam", "layercam"][index % 2]
        try:
            start.wait()
            for _ in range(3):
                results[index] = explain(
                    fresh, make_images(), weighting=name, batch_size=2
                )
                np.testing.assert_allclose(results[index], expected[name], atol=1e-6)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(results) == 4
    assert count_traces(fresh) == 2


def test_memory_is_flat_over_a_stream(model) -> None:
    """No batch outlives the next one, neither its images nor its maps."""
    alive, most = [], 0

    def generate():
        for index in range(30):
            yield np.full((2, SIZE, SIZE, 3), index / 30, "float32")

    dataset = tf.data.Dataset.from_generator(
        generate, output_signature=tf.TensorSpec((2, SIZE, SIZE, 3))
    )
    num_images = 0
    for batch in explain_batches(model, dataset):
        num_images += len(batch.heatmaps)
        # The owner of the memory: what is handed out may be a view of it.
        for array in (batch.heatmaps, batch.images):
            alive.append(weakref.ref(array if array.base is None else array.base))
        most = max(most, sum(reference() is not None for reference in alive))
        del array
    assert num_images == 60
    assert most <= 4  # this batch and the one before


def test_nothing_is_read_before_it_is_asked_for(model) -> None:
    num_read = []

    def generate():
        for index in range(100):
            num_read.append(index)
            yield np.ones((2, SIZE, SIZE, 3), "float32")

    dataset = tf.data.Dataset.from_generator(
        generate, output_signature=tf.TensorSpec((2, SIZE, SIZE, 3))
    )
    batches = explain_batches(model, dataset)
    assert not num_read
    next(batches)
    assert len(num_read) < 10
    batches.close()


def find_live_operations(graph) -> list[tf.Operation]:
    """Return what the outputs of a graph need; TensorFlow prunes the rest."""
    live, waiting = {}, [output.op for output in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name not in live:
            live[operation.name] = operation
            waiting += [x.op for x in operation.inputs] + [*operation.control_inputs]
    found = list(live.values())
    for loop in [operation for operation in found if "While" in operation.type]:
        body = graph._get_function(loop.get_attr("body").name).graph
        found += find_live_operations(body)
    return found


@pytest.mark.parametrize("shape", [None, (5, 3)])
@pytest.mark.parametrize(("conv_layer", "num_convolutions"), [(None, 0), ("first", 1)])
def test_only_the_head_is_differentiated(conv_layer, num_convolutions, shape) -> None:
    """By the operations of the traced graph."""
    model = make_model()
    vectors = None if shape is None else make_vectors(*shape)
    explain(model, make_images(), proxies=vectors, conv_layer=conv_layer)
    (explainer,) = module.list_compiled(model)
    (concrete,) = explainer._run._list_all_concrete_functions()
    kinds = [operation.type for operation in find_live_operations(concrete.graph)]
    assert kinds.count("Conv2D") == 2
    # One step back for each convolution behind the chosen one, also where many
    # proxies share the run of the model; none for a weight.
    assert kinds.count("Conv2DBackpropInput") == num_convolutions
    assert kinds.count("ReluGrad") == num_convolutions
    assert not any("BackpropFilter" in x or "BiasAddGrad" in x for x in kinds)
    # Of no kind in the whole graph, what is pruned included, for the first one.
    names = [operation.name for operation in concrete.graph.get_operations()]
    assert not any("gradient_tape" in x and "/first" in x for x in names)


def make_towers() -> tuple[keras.Model, list[keras.layers.Layer]]:
    """Return a subclassed model of two towers, whose layers share one name."""

    class Towers(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.convs = [layers.Conv2D(4, 3, name="conv") for _ in range(2)]

        def call(self, images):
            maps = [ops.relu(conv(images)) for conv in self.convs]
            return ops.concatenate([ops.mean(x, axis=(1, 2)) for x in maps], axis=-1)

    keras.utils.set_random_seed(3)
    model = Towers()
    model(make_images(1))
    return model, model.convs


@pytest.mark.parametrize("several", [list, tuple])
def test_layers_of_one_name_do_not_get_each_others_maps(several) -> None:
    model, convs = make_towers()
    found = [explain(model, make_images(), conv_layer=several([x])) for x in convs]
    for maps, conv in zip(found, convs, strict=True):
        alone = EmbeddingCAM(model, conv)(make_images())[1]
        np.testing.assert_allclose(maps, alone, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.1


def change_by_lora(model: keras.Model) -> None:
    dense = model.layers[-1]
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))


def change_by_quantization(model: keras.Model) -> None:
    model.quantize("int8")


def change_an_activation(model: keras.Model) -> None:
    model.layers[-1].activation = keras.activations.tanh


CHANGES = [change_by_lora, change_by_quantization, change_an_activation]


@pytest.mark.parametrize("change", CHANGES)
def test_replaced_weights_show(change) -> None:
    model = make_model()
    before = explain(model, make_images(), details=True)
    change(model)
    after = explain(model, make_images(), details=True)
    expected = model(make_images(), training=False)
    np.testing.assert_allclose(after.embeddings, expected, atol=1e-5)
    assert np.abs(before.embeddings - after.embeddings).max() > 1e-5
    embeddings, heatmaps = EmbeddingCAM(model)(make_images())
    np.testing.assert_allclose(after.heatmaps, heatmaps, atol=1e-5)


def test_what_is_used_stays_compiled(monkeypatch) -> None:
    """Not what came last goes, but what was used least lately."""
    monkeypatch.setattr(module, "MAX_COMPILED", 2)
    model = make_model()
    explain(model, make_images())
    (first,) = module.list_compiled(model)
    for name in ("layercam", "hirescam", "xgradcam"):
        explain(model, make_images(), weighting=name)
        explain(model, make_images())
    assert first in module.list_compiled(model)
    assert first.num_traces == 1


def test_a_look_at_one_model_does_not_hold_up_another(model) -> None:
    """While a slow model is looked at, others are explained."""
    explain(model, make_images())  # compiled before
    inside, finished = threading.Event(), threading.Event()

    class Slow(Subclassed):
        def call(self, images):
            if self.built and threading.current_thread().name == "slow":
                inside.set()
                assert finished.wait(60)
            return super().call(images)

    slow = Slow()
    slow(make_images())
    thread = threading.Thread(target=explain, args=(slow, make_images()), name="slow")
    thread.start()
    assert inside.wait(60)
    explain(model, make_images(), weighting="layercam")
    finished.set()
    thread.join()


def test_many_maps_are_not_copied_and_belong_to_the_caller(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = explain(model, make_images(2), proxies=make_vectors(2, 3))
    assert few.size < module.MIN_SHARED and few.flags.owndata
    monkeypatch.setattr(module, "MIN_SHARED", few.size - 1)
    shared = explain(model, make_images(2), proxies=make_vectors(2, 3))
    assert not shared.flags.owndata and shared.flags.writeable
    np.testing.assert_array_equal(shared, few)
    shared[:] = -1  # nobody else sees it
    again = explain(model, make_images(2), proxies=make_vectors(2, 3))
    np.testing.assert_array_equal(again, few)
    assert not np.shares_memory(again, shared)
    gc.collect()
    assert np.all(shared == -1)
