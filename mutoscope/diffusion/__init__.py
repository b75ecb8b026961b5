"""Pure maths on tensors: how noise becomes data. Knows no network.

    process     the clock, said once; what a process must offer
    flow        flow matching: training pairs, densities of t, velocity <-> denoised, given frames
    schedule    falling grids of t, and the shift that spends more of them near noise
    guidance    CFG, JIT-CFG, SIT-CFG, renormalisation: field in, field out
    samplers    Euler, Heun, Adams-Bashforth: a sampler is a function

Everything works on any Gaussian in closed form, and is tested there.
"""
