// The operations on whole batches: instruction set, threads and scratch memory.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.hpp"

namespace pdrec {

std::vector<std::string> built_isas();
std::vector<std::string> runnable_isas();  // those of built_isas this processor has, best last
std::string isa();
void set_isa(const std::string& name);  // throws std::invalid_argument

void random_words(const RandomWordsArgs& args, std::int64_t n_rows, int n_threads);
void select_unobserved(const SelectionArgs& args, int n_threads);
void sample_pool(const PoolSamplingArgs& args, int n_threads);
void count_above(const CountAboveArgs& args, int n_threads);
void count_above_sums(const CountAboveSumsArgs& args, int n_threads);
void noisy_input(const NoisyInputArgs& args, float* out, int n_threads);
void noisy_input(const NoisyInputArgs& args, std::uint16_t* out, int n_threads);
void sparse_product(const SparseProductArgs& args, int n_threads);
void packed_dropout(const PackedDropoutArgs& args, int n_threads);
void attention_pooling(const AttentionPoolingArgs& args, int n_threads);
void packed_attention(const PackedAttentionArgs& args, float* out, int n_threads);
void packed_attention_backward(const PackedAttentionArgs& args,
                               const PackedAttentionGradients& gradients, int n_threads);
void biased_attention(const BiasedAttentionArgs& args, float* out, int n_threads);
// grad_distance [n_distances], grad_time [n_begins].
void biased_attention_backward(const BiasedAttentionArgs& args,
                               const PackedAttentionGradients& gradients, float* grad_distance,
                               float* grad_time, int n_threads);
void sasrec_block(const SasrecBlockArgs& args, float* out, int n_threads);
// gradients: of the parameters, one after another in the order of BlockParameters.
void sasrec_block_backward(const SasrecBlockArgs& args, const float* grad_out, float* grad_x,
                           float* gradients, int n_threads);
std::int64_t block_parameters_size(std::int64_t width);
BlockParameters<float> block_parameters(float* memory, std::int64_t width);
void item_logits(const ItemLogitsArgs& args, int n_threads);
double weighted_bce(WeightedBceArgs args, int n_threads);  // the sum of args.losses, set here
double sampled_softmax(CandidateLoss args, int n_threads);  // likewise
double shared_softmax(SharedSoftmaxArgs args, int n_threads);  // likewise
double corpus_softmax(CorpusLosses args, int n_threads);  // likewise; 0 before the last block
// With products of matrices, whose panels are made here; grad_items [n_items, width], over all rows,
// may be null.
double shared_softmax(SharedSoftmaxArgs args, ItemProducts products, float* grad_items,
                      int n_threads);
double corpus_softmax(CorpusLosses args, ItemProducts products, float* grad_items, int n_threads);
void corpus_derivatives(const CorpusSoftmaxArgs& args, int n_threads);
void states_gradient(const StatesGradientArgs& args, int n_threads);
void table_gradient(const TableGradientArgs& args, int n_threads);
void sum_rows(const SumRowsArgs& args, int n_threads);
void adam_rows(const AdamRowsArgs& args, int n_threads);

}  // namespace pdrec
