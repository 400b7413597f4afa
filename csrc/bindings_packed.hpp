#pragma once

#include <pybind11/pybind11.h>

// Adds the operations of the family packed to the module.
void define_packed(pybind11::module_& m);
