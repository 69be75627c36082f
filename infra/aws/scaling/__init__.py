"""What a model's requests cost when they are served in AWS: machines, a function, or both.

    trace      requests a second, minute by minute, from a file or a hospital's log of answers
    forecast   requests of an hour, from the same hour of the four weeks before
    ways       ways to serve, and what each does minute by minute
    advice     the cheapest way that keeps the limits, chosen on one part, judged on another
    settings   that way, as lines of ``aws/MODEL.toml`` and of a crontab

Nothing here talks to AWS; ``flo.infra.aws.serving`` deploys models.
"""
