#include "candidates/_gradients.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// sum_k coefficient_k row_k into `out`, a block of rows at a time; complete after flush().
class RowSum {
 public:
  RowSum(std::int64_t width, float* out) : width_(width), out_(out) {
    for (std::int64_t i = 0; i < width; ++i) out[i] = 0.0f;
  }

  void add(float coefficient, const float* row) {
    if (coefficient == 0.0f) return;
    if (n_ == kBlock) flush();
    coefficients_[n_] = coefficient;
    rows_[n_++] = row;
  }

  void flush() {
    add_rows(n_, coefficients_, rows_, width_, out_);
    n_ = 0;
  }

 private:
  std::int64_t width_;
  float* out_;
  int n_ = 0;
  float coefficients_[kBlock];
  const float* rows_[kBlock];
};

}  // namespace

void states_gradient(const StatesGradientArgs& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  for (std::int64_t row = begin; row < end; ++row) {
    RowSum sum(all.width, args.out + row * all.width);
    for (std::int64_t at = row * all.n_candidates; at < (row + 1) * all.n_candidates; ++at) {
      prefetch_candidate(all, at + kPrefetchAhead);
      if (all.items[at] < 0) continue;
      sum.add(args.grad_loss * args.grad_dot[at], all.table + all.items[at] * all.width);
    }
    sum.add(args.grad_loss * args.grad_state[row], all.states + row * all.width);
    sum.flush();
  }
}

void table_gradient(const TableGradientArgs& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  const auto n_candidates = static_cast<std::uint32_t>(all.n_candidates);
  for (std::int64_t group = begin; group < end; ++group) {
    const std::int64_t item = args.group_items[group];
    RowSum sum(all.width, args.out + (args.compact ? group : item) * all.width);
    float grad_item = 0.0f;
    for (std::int64_t k = args.group_starts[group]; k < args.group_starts[group + 1]; ++k) {
      const auto at = static_cast<std::uint32_t>(args.order[k]);
      grad_item += args.grad_item[at];
      sum.add(args.grad_loss * args.grad_dot[at],
              all.states + std::int64_t{at / n_candidates} * all.width);
    }
    sum.add(args.grad_loss * grad_item, all.table + item * all.width);
    sum.flush();
  }
}

}  // namespace pdrec::PDREC_ISA
