"""The text embedding example: its manifest is valid, and similar texts get similar vectors."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from penstock.failures import CallFailed
from penstock.models import manifest
from penstock.models.checking import Checker
from penstock.models.replica.runtime import BlockingRuntime, Output, Schema, Spec
from penstock.models.replica.runtimes.python import PythonRuntime
from tests.support.runtimes import CollectingWire, call_with, read

FOLDER = Path(__file__).parents[2] / "examples" / "models" / "embedding"
REAL = importlib.util.find_spec("sentence_transformers") is not None


@pytest.fixture
def embedding(monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingRuntime]:
    """The model as its manifest states it, with what this interpreter has installed."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    model = manifest.read(FOLDER / "model.toml")
    options = model.manifest.options
    runtime = PythonRuntime.create(
        Spec(name=model.name, version=model.version, folder=model.folder, options=options, schema=Schema())
    )
    assert isinstance(runtime, BlockingRuntime)
    runtime.load()
    yield runtime
    sys.modules.pop("model", None)


def vectors(runtime: BlockingRuntime, *texts: str) -> np.ndarray:
    wire = CollectingWire()
    outputs = runtime.predict_batch([call_with(wire, {"text": text}) for text in texts])
    found = []
    for output in outputs:
        assert isinstance(output, Output)
        found.append(read(output)["vector"])
    return np.array(found)


def test_the_manifest_fits_the_models_schema(embedding: BlockingRuntime) -> None:
    schema = embedding.describe()
    assert schema.batches
    checker = Checker(schema.input)
    for example in manifest.read(FOLDER / "model.toml").manifest.examples:
        checker.check(example)
    assert schema.output["properties"]["vector"] == {"type": "array", "items": {"type": "number"}}


@pytest.mark.skipif(REAL, reason="the real model has its own name")
def test_without_the_library_the_output_names_the_substitute(embedding: BlockingRuntime) -> None:
    output = read(embedding.predict(call_with(CollectingWire(), {"text": "water"})))
    assert output["model"] == "hashed-ngrams-384"
    assert len(output["vector"]) == 384
    assert math.isclose(math.hypot(*output["vector"]), 1, rel_tol=1e-5)


def test_similar_texts_lie_closer_than_others(embedding: BlockingRuntime) -> None:
    base, similar, other = vectors(
        embedding,
        "The turbine is driven by water from the reservoir.",
        "Water from a reservoir drives the turbines.",
        "My grandmother bakes excellent apple cake on Sundays.",
    )
    assert base @ similar > 0.4
    assert base @ similar > base @ other + 0.3


def test_a_batch_is_embedded_like_single_texts(embedding: BlockingRuntime) -> None:
    texts = ["one", "two words", "…", "drei Wörter hier"]
    together = vectors(embedding, *texts)
    single = np.array(
        [read(embedding.predict(call_with(CollectingWire(), {"text": text})))["vector"] for text in texts]
    )
    assert np.allclose(together, single, atol=1e-5)


def test_a_call_without_a_text_is_refused(embedding: BlockingRuntime) -> None:
    with pytest.raises(CallFailed) as caught:
        embedding.predict(call_with(CollectingWire(), {"text": ""}))
    assert (caught.value.category, caught.value.field) == ("bad_input", "text")
