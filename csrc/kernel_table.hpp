// The kernels of one instruction set. Each kernel source is compiled once per instruction set, with
// PDREC_ISA naming the namespace; sources compiled so use no library template on library types,
// because the linker keeps one copy of those and may pick one that this processor cannot run.
#pragma once

#include <cstdint>

#include "counter_rng.hpp"
#include "candidates/_gradients.hpp"
#include "candidates/corpus_softmax.hpp"
#include "candidates/item_logits.hpp"
#include "candidates/sampled_softmax.hpp"
#include "candidates/shared_softmax.hpp"
#include "candidates/weighted_bce.hpp"
#include "denoising/noisy_input.hpp"
#include "denoising/sparse_product.hpp"
#include "fitting/adam_rows.hpp"
#include "fitting/sum_rows.hpp"
#include "packed/attention_pooling.hpp"
#include "packed/biased_attention.hpp"
#include "packed/packed_attention.hpp"
#include "packed/packed_dropout.hpp"
#include "packed/sasrec_block.hpp"
#include "selection/count_above.hpp"
#include "selection/count_above_sums.hpp"
#include "selection/sample_pool.hpp"
#include "selection/select_unobserved.hpp"

namespace pdrec {

// Each function computes the rows [begin, end).
struct KernelTable {
  const char* isa;
  void (*random_words)(const RandomWordsArgs&, std::int64_t begin, std::int64_t end);
  void (*select_unobserved)(const SelectionArgs&, std::int64_t begin, std::int64_t end,
                            const SelectionScratch&);
  void (*sample_pool)(const PoolSamplingArgs&, std::int64_t begin, std::int64_t end,
                      const PoolSamplingScratch&);
  void (*count_above)(const CountAboveArgs&, std::int64_t begin, std::int64_t end);
  void (*count_above_sums)(const CountAboveSumsArgs&, std::int64_t begin, std::int64_t end);
  void (*noisy_input_f32)(const NoisyInputArgs&, float* out, std::int64_t begin, std::int64_t end,
                          float* signal_row);
  void (*noisy_input_bf16)(const NoisyInputArgs&, std::uint16_t* out, std::int64_t begin,
                           std::int64_t end, float* signal_row);
  void (*sparse_product)(const SparseProductArgs&, std::int64_t begin, std::int64_t end);
  void (*packed_dropout)(const PackedDropoutArgs&, std::int64_t begin, std::int64_t end);
  void (*attention_pooling)(const AttentionPoolingArgs&, std::int64_t begin, std::int64_t end,
                            float* weights);
  void (*packed_attention)(const PackedAttentionArgs&, float* out, std::int64_t begin,
                           std::int64_t end, const PackedAttentionScratch&);
  void (*packed_attention_backward)(const PackedAttentionArgs&, const PackedAttentionGradients&,
                                    std::int64_t begin, std::int64_t end,
                                    const PackedAttentionScratch&);
  void (*biased_attention)(const BiasedAttentionArgs&, float* out, std::int64_t begin,
                           std::int64_t end, const BiasedAttentionScratch&);
  void (*biased_attention_backward)(const BiasedAttentionArgs&, const PackedAttentionGradients&,
                                    const BiasSums&, std::int64_t begin, std::int64_t end,
                                    const BiasedAttentionScratch&);
  void (*sasrec_block)(const SasrecBlockArgs&, float* out, std::int64_t begin, std::int64_t end,
                       const SasrecBlockScratch&);
  void (*sasrec_block_backward)(const SasrecBlockArgs&, const SasrecBlockGradients&,
                                std::int64_t begin, std::int64_t end, const SasrecBlockScratch&);
  void (*item_logits)(const ItemLogitsArgs&, std::int64_t begin, std::int64_t end);
  void (*weighted_bce)(const WeightedBceArgs&, std::int64_t begin, std::int64_t end);
  void (*sampled_softmax)(const CandidateLoss&, std::int64_t begin, std::int64_t end);
  void (*shared_softmax)(const SharedSoftmaxArgs&, std::int64_t begin, std::int64_t end);
  void (*corpus_softmax)(const CorpusLosses&, std::int64_t begin, std::int64_t end);
  void (*shared_softmax_products)(const SharedSoftmaxArgs&, const ItemProducts&,
                                  const PartOfRows&);
  void (*corpus_softmax_products)(const CorpusLosses&, const ItemProducts&, const PartOfRows&);
  void (*corpus_derivatives)(const CorpusSoftmaxArgs&, std::int64_t begin, std::int64_t end);
  void (*states_gradient)(const StatesGradientArgs&, std::int64_t begin, std::int64_t end);
  void (*table_gradient)(const TableGradientArgs&, std::int64_t begin, std::int64_t end);
  void (*sum_rows)(const SumRowsArgs&, std::int64_t begin, std::int64_t end);
  void (*adam_rows)(const AdamRowsArgs&, std::int64_t begin, std::int64_t end, float* scratch);
};

namespace baseline {
extern const KernelTable table;
}
#ifdef PDREC_X86_KERNELS
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

}  // namespace pdrec
