"""The models that the configuration names."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from tailrace.gateway.access import Asking
from tailrace.gateway.errors import ApiError, refusals
from tailrace.gateway.gateway import Here
from tailrace.gateway.openai.route import ALWAYS, OpenAIRoute
from tailrace.gateway.openai.upstreams import offered

router = APIRouter(prefix="/v1/models", tags=["openai"], route_class=OpenAIRoute, responses=ALWAYS)


class Model(BaseModel):
    """A model that can be asked for by its name."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    """Nobody knows."""
    owned_by: str
    """The upstream that is asked."""


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("", summary="The models that are configured")
async def models(gateway: Here, _: Asking) -> Models:
    """`models` and `default_model` of all upstreams. Others may be asked for too: their names go to the default upstream."""
    found = offered(gateway.tailrace.settings)
    return Models(data=[Model(id=model, owned_by=upstream) for model, upstream in found.items()])


@router.get("/{model:path}", summary="One of them", responses=refusals(404))
async def model(model: str, gateway: Here, _: Asking) -> Model:
    """Whether it is configured, and of whom it is asked."""
    upstream = offered(gateway.tailrace.settings).get(model)
    if upstream is None:
        raise ApiError(404, f"The model {model!r} is not configured here.", code="model_not_found", param="model")
    return Model(id=model, owned_by=upstream)
