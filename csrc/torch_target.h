// The oldest torch with whose stable ABI the modules run. Before any of torch's headers, which read it.
#pragma once

#if defined(TORCH_FEATURE_VERSION)
#error "torch_target.h must come before torch's headers"
#endif

#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 10) << 48))  // 2.10
