// What may be one row for the whole batch: the prior, and gradients of such tensors.
#pragma once

#include "tensors.h"

namespace manifold_core::cpu {

inline Prior prior_of(const OptionalTensor& mu, const OptionalTensor& log_var, int64_t rows, int64_t cols) {
  STD_TORCH_CHECK(mu.has_value() == log_var.has_value(), "manifold_core: expected both of prior_mu, prior_log_var");
  return {broadcast(mu, rows, cols, "prior_mu"), broadcast(log_var, rows, cols, "prior_log_var")};
}

// The gradient of a tensor that may be absent, unwanted, or one row that stands for all.
class Gradient {
 public:
  Gradient(const OptionalTensor& of, bool wanted, int64_t rows, int64_t cols, int64_t block)
      : tensor_(wanted && of.has_value() ? allocate({of->size(0), cols}, of->scalar_type())
                                         : allocate({0}, ScalarType::Float)),
        wanted_(wanted && of.has_value()),
        summed_(wanted_ && of->size(0) == 1 && rows != 1) {
    if (wanted_) result_ = summed_ ? sums_.begin(rows, cols, block) : Result{matrix(tensor_)};
  }

  const Result& result() const { return result_; }

  const Tensor& finish() const {
    if (summed_) sums_.finish(tensor_);
    return tensor_;
  }

 private:
  Tensor tensor_;
  bool wanted_, summed_;
  ColumnSums sums_;
  Result result_;
};

}  // namespace manifold_core::cpu
