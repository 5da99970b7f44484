"""Lightning's import path of `is_overridden`."""

from __future__ import annotations

from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import Callback, overridden
from scaffold_runtime.module import LightningModule


def is_overridden(
    method_name: str, instance: object | None = None, parent: type | None = None
) -> bool:
    """Whether `instance` overrides `method_name` of `parent`; False for None.

    Raises:
        MisconfigurationException: without `parent`, if `instance` is no module, data module or callback.
    """
    if instance is None:
        return False
    kinds = (LightningModule, LightningDataModule, Callback)
    base = parent or next((kind for kind in kinds if isinstance(instance, kind)), None)
    if base is None:
        raise MisconfigurationException(
            f"is_overridden({method_name!r}, ...) got a {type(instance).__name__}, which is no module, data module "
            "or callback: pass the class that has the method as `parent`."
        )
    return overridden(method_name, instance, base)


__all__ = ["is_overridden"]
