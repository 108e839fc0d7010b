"""The video-to-audio model: transformer, conditioners, codec, encoders, transition kernels, sampler, checkpoints."""
