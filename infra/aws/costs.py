"""Estimate of an installation's monthly cost, from a fixed price table; not an offer.

Prices: list prices on demand in us-east-1, US dollars, as the authors knew them in November 2026.
They are not read from AWS; other regions differ by some 10 to 25 %.
"""

from __future__ import annotations

from dataclasses import dataclass

HOURS = 730.0
PRICES = {
    "EC2 t3.medium, an hour": 0.0416,
    "EBS gp3, a GB a month": 0.08,
    "load balancer, an hour": 0.0225,
    "load balancer capacity unit, an hour": 0.006,
    "public IPv4 address, an hour": 0.005,
    "interface endpoint in one zone, an hour": 0.01,
    "KMS key, a month": 1.0,
    "KMS, 10,000 requests": 0.03,
    "S3, a GB a month": 0.023,
    "S3, 1,000 writes": 0.005,
    "log, a GB taken in": 0.50,
    "alarm, a month": 0.10,
    "own metric, a month": 0.30,
    "SageMaker ml.m5.large, an hour": 0.115,
    "traffic out, a GB": 0.09,
}
ENDPOINTS, ZONES, KEYS, ALARMS, DISK_GB = 7, 2, 6, 5, 50
METRICS, METRICS_A_STUDY = 7, 4


@dataclass(frozen=True)
class Use:
    """A month of a consortium. ``model_mb``: one model in transit; ``seconds``: of a round."""

    hospitals: int
    studies: int = 4
    rounds: int = 100
    model_mb: float = 1.0
    seconds: float = 3.0


def monthly(use: Use) -> dict[str, float]:
    """Return dollars per month, by item."""
    p = PRICES
    rounds = use.studies * use.rounds
    job_hours = use.studies * (use.rounds * use.seconds / 3600 + 0.15)  # start-up of each job
    out_gb = rounds * use.hospitals * use.model_mb / 1000
    writes = rounds * 3
    balancer = p["load balancer, an hour"] + p["load balancer capacity unit, an hour"]
    endpoint = p["interface endpoint in one zone, an hour"]
    return {
        "machine": HOURS * p["EC2 t3.medium, an hour"] + DISK_GB * p["EBS gp3, a GB a month"],
        "load balancer": HOURS * (balancer + ZONES * p["public IPv4 address, an hour"]),
        "private endpoints": HOURS * ENDPOINTS * ZONES * endpoint,
        "keys": KEYS * p["KMS key, a month"] + writes / 10_000 * p["KMS, 10,000 requests"],
        "storage": (rounds * 3 * use.model_mb / 1000) * p["S3, a GB a month"]
        + writes / 1000 * p["S3, 1,000 writes"],
        "logs and alarms": p["log, a GB taken in"]
        + ALARMS * p["alarm, a month"]
        + (METRICS + METRICS_A_STUDY * use.studies) * p["own metric, a month"],
        "training jobs": job_hours * p["SageMaker ml.m5.large, an hour"],
        "traffic to hospitals": out_gb * p["traffic out, a GB"],
    }
