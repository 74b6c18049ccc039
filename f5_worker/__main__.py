"""`python -m f5_worker`: the composition root of the operator commands, as handler.py is of the worker."""

from __future__ import annotations

from f5_worker import cli
from s3_utils import S3Store

if __name__ == "__main__":
    cli.main(S3Store)
