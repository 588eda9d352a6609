"""Every measure of the comparison table, in the order of its columns."""

from keras_embcam.evaluation.cost import describe_methods, measure_costs
from keras_embcam.evaluation.deletion import measure_deletion
from keras_embcam.evaluation.measure import Column
from keras_embcam.evaluation.montages import measure_montages
from keras_embcam.evaluation.occlusion import measure_occlusion
from keras_embcam.evaluation.stability import measure_noise, measure_translation
from keras_embcam.evaluation.top_pointing import measure_top_5_pointing
from keras_embcam.evaluation.weight_randomization import measure_randomized
from keras_embcam.evaluation.whole_set import measure_figures

# On a few images: whether maps show what the network uses.
FAITHFULNESS_MEASURES = (
    measure_deletion,
    measure_occlusion,
    measure_randomized,
    measure_noise,
    measure_translation,
    measure_montages,
    measure_top_5_pointing,
)
MEASURES = (measure_figures, *FAITHFULNESS_MEASURES, measure_costs, describe_methods)

# The columns of each table by its title, as the measures name them.
TABLES: dict[str, tuple[Column, ...]] = {}
for measure in MEASURES:
    for title, columns in measure.tables.items():
        TABLES[title] = (*TABLES.get(title, ()), *columns)
