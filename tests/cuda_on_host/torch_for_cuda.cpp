// What only a torch built for CUDA has in its library: here there is one stream, and one device.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

extern "C" {

AOTITorchError aoti_torch_create_cuda_guard(int32_t, CUDAGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}

AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) { return 0; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
}
