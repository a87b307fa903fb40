"""The listings of whoever asks: of all jobs, those that are theirs."""

from collections.abc import Callable

from tailrace.consumer import Listed, Listing, OpenJobs
from tailrace.gateway.access import Principal
from tailrace.gateway.gateway import Gateway
from tailrace.joblog import Overview


async def open_jobs(gateway: Gateway, principal: Principal, limit: int) -> OpenJobs:
    """Jobs of theirs that have not ended, at most `limit`. Raises: BrokerUnavailable."""
    return await _listing(gateway).open_jobs(limit, _theirs(principal))


async def ended_jobs(gateway: Gateway, principal: Principal, limit: int) -> list[Listed]:
    """Jobs of theirs that have ended, at most `limit`, the last one first. Raises: BrokerUnavailable."""
    return await _listing(gateway).ended_jobs(limit, _theirs(principal))


def _listing(gateway: Gateway) -> Listing:
    tailrace = gateway.tailrace
    return Listing(tailrace.broker, tailrace.settings.keys, tailrace.consumer)


def _theirs(principal: Principal) -> Callable[[Overview], bool]:
    def theirs(overview: Overview) -> bool:
        return principal.owns(overview.job.get("tenant"))

    return theirs
