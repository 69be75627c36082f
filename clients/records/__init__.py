"""Records of each study at a site: approval, frozen patients, replies, extract."""
