"""Studies that run as they are; part of the wheel, so that ``flo demo`` finds them anywhere."""
