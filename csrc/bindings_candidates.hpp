#pragma once

#include <pybind11/pybind11.h>

// Adds the operations of the family candidates to the module.
void define_candidates(pybind11::module_& m);
