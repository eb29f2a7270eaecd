"""Makes a bucket in the S3 store that the environment names, unless it is there: ``python bucket.py NAME``."""

from __future__ import annotations

import sys

import boto3


def make(name: str) -> None:
    """Make a bucket; one that exists is left as it is.

    Args:
        name: Name of the bucket.
    """
    client = boto3.client("s3")
    if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=name)


if __name__ == "__main__":
    make(sys.argv[1])
