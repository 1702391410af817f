// Chooses a kernel table by what this CPU can run.

#include "select.h"

#include <stdexcept>

namespace flash {
namespace {

// Fastest first.
std::vector<const Kernels*> supported_tables() {
    std::vector<const Kernels*> tables;
#if defined(FLASH_WITH_X86)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
        tables.push_back(&avx512_kernels());
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) {
        if (__builtin_cpu_supports("avxvnni")) tables.push_back(&avxvnni_kernels());
        tables.push_back(&avx2_kernels());
    }
#endif
    tables.push_back(&portable_kernels());
    return tables;
}

} // namespace

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Kernels* table : supported_tables()) names.emplace_back(table->name);
    return names;
}

const Kernels& kernels_named(const std::string& isa) {
    for (const Kernels* table : supported_tables()) {
        if (table->name == isa) return *table;
    }
    throw std::invalid_argument("isa (" + isa + ") is not supported by this CPU or build");
}

} // namespace flash
