import subprocess
import sys

import torch

from fbnet_mobile.arch import BLOCKS
from fbnet_mobile.blocks.network import build, calibrate_batch_norm
from fbnet_mobile.zoo import load_network


def test_calibration_takes_the_statistics_of_the_images_and_leaves_the_rest_as_it_was() -> None:
    network = build(load_network("fbnetv2-f1"))
    stem = network[0]
    stem[1].momentum = 0.3
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        mapped = stem[0](images)
    calibrate_batch_norm(network, images)
    torch.testing.assert_close(stem[1].running_mean, mapped.mean((0, 2, 3)))
    torch.testing.assert_close(stem[1].running_var, mapped.var((0, 2, 3)))
    assert stem[1].momentum == 0.3
    assert not any(part.training for part in network.modules())


def test_every_kind_and_every_space_loads_without_torch() -> None:
    program = (
        "import sys\n"
        "from fbnet_mobile.arch import BLOCKS, Block\n"
        "from fbnet_mobile.space import load_space\n"
        "assert load_space('small').candidates()\n"
        "assert Block.parse_key('conv in_channels=3 out_channels=8 resolution=4 stride=1 kernel_size=3 "
        "activation=relu bias=False').params == 232\n"
        "print(*BLOCKS, 'torch' in sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    kinds = ["conv", "fused_inverted_residual", "head", "inverted_residual", "universal_inverted_residual"]
    assert done.stdout.split() == [*kinds, "False"], done.stderr
    assert {"conv", "head", "inverted_residual"} <= set(BLOCKS)
