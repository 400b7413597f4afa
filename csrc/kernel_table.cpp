#include "kernel_table.hpp"

#define PDREC_QUOTE_(name) #name
#define PDREC_QUOTE(name) PDREC_QUOTE_(name)

namespace pdrec::PDREC_ISA {

extern const KernelTable table;
const KernelTable table = {
    PDREC_QUOTE(PDREC_ISA),
    &random_words,
    &select_unobserved,
    &sample_pool,
    &count_above,
    &count_above_sums,
    &noisy_input<float>,
    &noisy_input<std::uint16_t>,
    &sparse_product,
    &packed_dropout,
    &attention_pooling,
    &packed_attention,
    &packed_attention_backward,
    &biased_attention,
    &biased_attention_backward,
    &sasrec_block,
    &sasrec_block_backward,
    &item_logits,
    &weighted_bce,
    &sampled_softmax,
    &shared_softmax,
    &corpus_softmax,
    &shared_softmax_products,
    &corpus_softmax_products,
    &corpus_derivatives,
    &states_gradient,
    &table_gradient,
    &sum_rows,
    &adam_rows,
};

}  // namespace pdrec::PDREC_ISA
