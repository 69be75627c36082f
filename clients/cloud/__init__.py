"""Which published version may answer in the hospital's own AWS account, compiled and checked.

It calls no cloud: ``flo.infra.aws.serving`` does, and asks here before and after.
"""
