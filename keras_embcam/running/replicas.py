"""Share a batch of images out among the replicas of a tf.distribute strategy."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops, tree

from keras_embcam.proxies import single_point


def has_replicas(strategy: tf.distribute.Strategy) -> bool:
    """Tell whether a strategy has several replicas, all of them in this process."""
    mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
    return mirrored and strategy.num_replicas_in_sync > 1


def share_out(
    strategy: tf.distribute.Strategy,
    function: Callable[..., Any],
    images: Any,
    proxies: Any,
) -> tuple:
    """Return ``function(images, proxies)``, each replica doing a share of the images.

    Works in the graph of a `tf.function`.
    """
    num_images = tf.shape(tree.flatten(images)[0])[0]
    share = -(-num_images // strategy.num_replicas_in_sync)

    def put_together(tensor: Any) -> Any:
        parts = strategy.experimental_local_results(tensor)
        return tf.concat(parts, axis=0)[:num_images]

    def choose_all(_: Any, embeddings: Any) -> Any:
        # Called for all replicas at once: it may look at all embeddings of the batch.
        chosen = ops.convert_to_tensor(proxies(put_together(embeddings)))
        if len(chosen.shape) == 1:
            return chosen
        right = tf.debugging.assert_equal(
            tf.shape(chosen)[0],
            num_images,
            "`proxies` must have one row for each image.",
        )
        with tf.control_dependencies([right]):
            return tf.identity(chosen)  # no row is gathered before the check

    def explain_share() -> Any:
        replica = tf.distribute.get_replica_context()
        first = share * replica.replica_id_in_sync_group
        # The last image again where the shares do not come out even: none is empty,
        # and it stands behind all others when they are put together.
        rows = tf.minimum(first + tf.range(share), num_images - 1)

        def choose(embeddings: Any) -> Any:
            chosen = replica.merge_call(choose_all, args=(embeddings,))
            return tf.gather(chosen, rows) if len(chosen.shape) > 1 else chosen

        if isinstance(proxies, tf.Tensor):
            mine = tf.gather(proxies, rows)
        else:
            of_one_image = proxies is None or proxies is single_point
            mine = proxies if of_one_image else choose
        return function(tree.map_structure(lambda x: tf.gather(x, rows), images), mine)

    return tuple(put_together(x) for x in strategy.run(explain_share))
