"""What the operator's client (`say`, `validate`, `studio`) fails of; the rest of the tree is in errors.py."""

from __future__ import annotations

from f5_worker.errors import WorkerError


class EndpointError(WorkerError, code="ENDPOINT_FAILED"):
    """The client: the endpoint refused a call.

    The message has the platform's answer.
    """


class EndpointUnauthorized(EndpointError, code="ENDPOINT_UNAUTHORIZED"):
    """The client: the API key is missing, wrong, or not for this endpoint.

    Set RUNPOD_API_KEY to a key of the account that owns the endpoint.
    """


class EndpointNotFound(EndpointError, code="ENDPOINT_NOT_FOUND"):
    """The client: there is no endpoint of that id, or it has forgotten the job.

    Copy the id from RunPod's console; results are kept for 30 minutes, then send the job again.
    """


class EndpointUnhealthy(EndpointError, code="ENDPOINT_UNHEALTHY", retryable=True):
    """The client: no worker of the endpoint took the job.

    Read the worker's log in RunPod's console, and check that the endpoint has more than 0 workers and a GPU that is to be had.
    """


class EndpointOutdated(EndpointError, code="ENDPOINT_OUTDATED"):
    """The client: the endpoint's worker is older than the client, or another program.

    Deploy the image of the client's version, or use a client of the worker's version.
    """


class EndpointUnreachable(EndpointError, code="ENDPOINT_UNREACHABLE", retryable=True):
    """The client: the endpoint or the result's URL could not be reached, also not after several tries.

    Check the network and run the command again; parts that are done are kept.
    """


class JobFailed(EndpointError, code="JOB_FAILED"):
    """The client: the endpoint ended a job without a result.

    The message has the worker's own code, or what the platform did.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.may_succeed_later = retryable
