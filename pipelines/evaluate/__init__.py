"""Evaluation that someone else can reproduce: metrics, protocols, ablations, the preference page and corpus quality.

metrics/         one file per metric: clip_text, clip_image, dino, fid (and CLIP-FID), lpips, ssim
presets          `ours`, `dreamedit`, `bcmi`: which model, which preprocessing, which crop, how many seeds
protocols        which composites a protocol asks for, by manifest IDs
scoring          pairs in, scores out: reading overlaps computing, and what is scored stays scored
tables           means, intervals, and beside each number what made it
"""
