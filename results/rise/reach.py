"""A larger share whose radius goes no further than the first steps say: does one setting serve all?

Held-out images and tuning seeds of evidence.py, 30 passes; one JSON line a run, made once:

    python results/rise/reach.py
"""

import evidence

import lsam_jax as lsam

if __name__ == "__main__":
    for net in ("vit", "resnet"):
        stored = evidence.Stored(f"{net}-reach", net)
        for seed in evidence.TUNING:
            for name in ("SAM", "SAM, 1/8"):
                make, part = evidence.methods(4)[name]
                tx = make(lsam.rise(share=0.45, reach=1))
                stored.run(f"{name}, share 0.45, reach 1", tx, part, seed, held_out=True)
