"""The certificate authority, and each study's own key."""
