"""Commands on the coordinator's folder: invitations, key rotation, rewrapping, doctor."""
