# make demo, make test: both need only Python 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
WHEEL := $(CURDIR)/build/wheel
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test slow lint docs wheel browser witnesses peers bench clean

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

# The main job: train with the logger, then look with TensorBoard.
DEMO := embcam_demo
demo: $(VENV)/.installed
	rm -rf $(DEMO)
	$(BIN)/embcam demo --out $(DEMO) $(DEMO_ARGS)

# The wheel, unpacked where nothing of the checkout can stand in for it.
wheel: $(VENV)/.installed
	rm -rf build dist
	$(BIN)/python -m build --quiet --wheel
	$(BIN)/pip install --quiet --no-deps --target $(WHEEL) dist/*.whl

lint: wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(WHEEL) && $(BIN)/mypy --config-file $(CURDIR)/setup.cfg -p keras_embcam

# The guide, into build/site. Strict: a broken link fails. Not --quiet, under which MkDocs
# counts no warnings.
docs: wheel
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# From outside the checkout, so that the wheel is what is tested.
PYTEST := cd $$(mktemp -d) && PYTHONPATH=$(WHEEL) $(BIN)/pytest -c $(CURDIR)/setup.cfg \
	--rootdir $(CURDIR)

# TensorFlow uses oneDNN where the processor has VNNI, unless TF_ENABLE_ONEDNN_OPTS says
# otherwise; results differ. All tests run with the setting that is found here, and the
# numerical core again with the other one: what computes activations, gradients and maps.
OTHER_ONEDNN := $(shell case "$${TF_ENABLE_ONEDNN_OPTS:-$$(grep -c vnni /proc/cpuinfo \
	2> /dev/null)}" in ("" | 0 | [Ff]alse) echo 1 ;; \
	(*) echo 0 ;; esac)
NUMERICAL_CORE := embedding_cam explain explain_refused heatmaps invariants \
	network_normalized_parts network_raw_embedding network_relu_gradients \
	network_view network_view_contexts presets retrieval_contributions \
	retrieval_pairs retrieval_witnesses running_many_proxies tokens_explained \
	weightings weightings_by_attention witnesses witnesses_vit

# Three workers for two cores, since a worker waits for browsers and other processes. Files
# in the order of their names: by their number of tests, which is the default, those with
# few long ones come last, and the cores wait for each other.
ALL_CORES := -m "not slow" -n 3 --dist loadscope --no-loadscope-reorder

test: lint docs browser
	$(PYTEST) $(ALL_CORES) $(CURDIR)/tests $(PYTEST_ARGS)
	export TF_ENABLE_ONEDNN_OPTS=$(OTHER_ONEDNN) && $(PYTEST) $(ALL_CORES) \
		$(NUMERICAL_CORE:%=$(CURDIR)/tests/test_%.py)

# For the test that opens TensorBoard; where it cannot be had, that test is skipped.
browser:
	@command -v chromium > /dev/null || { apt-get update -qq && \
		apt-get install -qq --no-install-recommends chromium; } > /dev/null 2>&1 || \
		echo "chromium cannot be installed here: tests in the browser are skipped"

# Other people's libraries, and the arrays that the tests compare with. They live
# in an environment of their own: the package must not see them.
WITNESSES := .venv-witnesses

$(WITNESSES)/.installed: tests/witnesses/requirements.txt
	$(PYTHON) -m venv $(WITNESSES)
	$(WITNESSES)/bin/pip install --quiet -r tests/witnesses/requirements.txt
	# It asks for torchvision, which record_cams.py stands in for.
	$(WITNESSES)/bin/pip install --quiet --no-deps grad-cam==1.5.7
	touch $@

# Records again what is kept in tests/witnesses/*.npz.
witnesses: $(WITNESSES)/.installed
	for script in tests/witnesses/record_*.py; do \
		$(WITNESSES)/bin/python $$script || exit 1; done

# Libraries to compare with in speed, in an environment of their own as well; those for
# torch are among the witnesses. What cannot be installed is absent from the table.
PEERS := .venv-peers
$(PEERS)/.installed: benchmarks/cost/workers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -r benchmarks/cost/workers/requirements.txt
	# It asks for the GPU build of an older TensorFlow.
	$(PEERS)/bin/pip install --quiet --no-deps xplique==2.0.2
	touch $@

peers: $(PEERS)/.installed $(WITNESSES)/.installed

# The table of what explanations cost; BENCH_ARGS="--only explain", or "--quick".
bench: $(VENV)/.installed
	-$(MAKE) --keep-going peers
	$(BIN)/python -m benchmarks.cost $(BENCH_ARGS)

# Trainings of minutes. They also need the photographs of KERAS_EMBCAM_TEST_DATA.
slow: wheel
	$(PYTEST) -m slow $(CURDIR)/tests $(PYTEST_ARGS)

clean:
	rm -rf build dist *.egg-info .venv .venv-witnesses .venv-peers
