"""The image that steps run in: one setting for all components, read when a pipeline is compiled."""

from __future__ import annotations

import os

from mlflow_istio import __version__

REPOSITORY = "mlflow-istio-kfp"
VARIABLE = "MLFLOW_ISTIO_KFP_IMAGE"
DEFAULT_IMAGE = f"{REPOSITORY}:{__version__}"
"""Its tag is the package's version, since a step's body only calls what is installed there."""

_chosen: str | None = None


def use_image(image: str | None) -> str:
    """Let every step that is made from now on run in an image, such as that of a private registry.

    Args:
        image: With a tag or digest it is taken as it is; without one, the tag is the package's version. None: the environment
            variable ``MLFLOW_ISTIO_KFP_IMAGE`` decides again, or the default.

    Returns:
        The image with its tag.

    Raises:
        ValueError: It is empty or holds a space.
    """
    global _chosen  # noqa: PLW0603  # a pipeline's file is compiled by one process, like kfp's own settings
    _chosen = None if image is None else _tagged(image, "use_image")
    return step_image()


def step_image() -> str:
    """The image of the next step: what ``use_image`` said, else ``MLFLOW_ISTIO_KFP_IMAGE``, else the default.

    Raises:
        ValueError: The variable holds no image.
    """
    if _chosen is not None:
        return _chosen
    given = os.environ.get(VARIABLE)
    return DEFAULT_IMAGE if given is None else _tagged(given, VARIABLE)


def _tagged(image: str, where: str) -> str:
    if not image or image != "".join(image.split()):
        raise ValueError(f"{where} is {image!r}: give an image such as registry.example.com/{REPOSITORY}")
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:{__version__}"
