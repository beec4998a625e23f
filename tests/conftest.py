import os

# Tests run small networks, for which threads cost more than they gain, and next to other programs much more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
