"""The models that are measured, and where they and the photos lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Model:
    """A model by the name that tables use, its file in a folder of models, and the type of its layers."""

    name: str
    file: str
    dtype: str

    def path(self, folder: Path) -> Path:
        return folder / self.file


SPEED = (
    Model("mobilenet_v1_1.0_224", "mobilenet_v1_1.0_224_quant_embedding_extractor.tflite", "uint8"),
    Model("mobilenet_v2_1.0_224", "mobilenet_v2_1.0_224_quant.tflite", "uint8"),
    Model("mobilenet_v1_0.25_128", "mobilenet_v1_0.25_128_quant.tflite", "uint8"),
    Model("deeplabv3_mnv2_dm05", "deeplabv3_mnv2_dm05_pascal_quant.tflite", "uint8"),
    Model("tf2_mobilenet_v2", "tf2_mobilenet_v2_1.0_224_ptq.tflite", "int8"),
    Model("mobilenet_edgetpu_0.75", "mobilenet_edgetpu_0.75_224_post_training_quant.tflite", "int8"),
    Model("vww_96", "vww_96_int8.tflite", "int8"),
    Model("kws", "kws_ref_model.tflite", "int8"),
    Model("pretrainedResnet", "pretrainedResnet_quant.tflite", "int8"),
    Model("ad01", "ad01_int8.tflite", "int8"),
)


@dataclass(frozen=True)
class Sampled:
    """A model with samples; the paths are whole."""

    name: str
    path: Path
    data: Path
    labels: Path | None


@dataclass(frozen=True)
class Labelled(Sampled):
    """One whose samples' labels are known."""

    labels: Path


def labelled(shared: Path) -> tuple[Labelled, ...]:
    """What accuracy is measured on; those of `shared` only if it is there."""
    photos = shared / "images"
    found = [
        Labelled(
            "digits",
            ROOT / "models" / "digits_uint8.tflite",
            ROOT / "models" / "digits_test.npz",
            ROOT / "models" / "digits_labels.csv",
        )
    ]
    for name, file in (
        ("mobilenet_v1_0.25_128", "mobilenet_v1_0.25_128_quant.tflite"),
        ("mobilenet_v2_1.0_224", "mobilenet_v2_1.0_224_quant.tflite"),
    ):
        if (shared / "models" / file).exists():
            found.append(Labelled(name, shared / "models" / file, photos, photos / "labels.csv"))
    return tuple(found)


def sampled(shared: Path) -> tuple[Sampled, ...]:
    """Those, and models whose answers can be compared without labels."""
    segmentation = Sampled(
        "deeplabv3_mnv2_dm05", shared / "models" / "deeplabv3_mnv2_dm05_pascal_quant.tflite", shared / "images", None
    )
    return (*labelled(shared), *([segmentation] if segmentation.path.exists() else []))
