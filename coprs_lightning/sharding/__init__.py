"""Training with the policy's weights divided among the processes (FSDP2), the segmentation parts in each of them."""
