"""Answer requests for runs of another library, in the environment that has it.

Standard library and numpy only: all environments have those. A request is a line of
JSON with "job" and "batch"; "save" names a file for what the job returned. The answer
is a line with "seconds", or with "absent" and the reason.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Job = Callable[[np.ndarray], np.ndarray]


def serve(
    make_jobs: Callable[[dict[str, np.ndarray]], dict[str, Callable[[], Job]]],
    libraries: list[str],
) -> None:
    """Read requests until there are no more.

    Args:
        make_jobs: from the arrays of the file that the program is called with: images,
            proxy and the weights of the network. Returns what makes each job; a job
            maps images (n, H, W, 3) to maps (n, H, W), or to embeddings.
        libraries: whose versions are told.
    """
    answers = os.fdopen(os.dup(1), "w")
    # Whatever a library prints goes elsewhere.
    os.dup2(2, 1)
    arrays = dict(np.load(sys.argv[1]))
    makers = make_jobs(arrays)
    jobs: dict[str, Job] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _answer(request, arrays["images"], makers, jobs, libraries)
        except Exception as error:  # the library's; the table says that it is absent
            answer = {"absent": _describe(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(
    request: dict[str, Any],
    images: np.ndarray,
    makers: dict[str, Callable[[], Job]],
    jobs: dict[str, Job],
    libraries: list[str],
) -> dict[str, Any]:
    name = request["job"]
    if name == "versions":
        return {x: _find_version(x) for x in libraries}
    if name not in jobs:
        jobs[name] = makers[name]()
    batch = images[: request["batch"]]
    start = time.perf_counter()
    result = jobs[name](batch)
    seconds = time.perf_counter() - start
    if "save" in request:
        np.save(Path(request["save"]), result)
    return {"seconds": seconds}


def _find_version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _describe(error: Exception) -> str:
    """Return the error in a line, without any path of this machine."""
    text = str(error).splitlines()[0] if str(error) else ""
    text = " ".join(word for word in text.split() if os.sep not in word)
    return f"{type(error).__name__}: {text[:120]}"
