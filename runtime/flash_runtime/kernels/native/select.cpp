// Chooses a kernel table by what this CPU can run.

#include "select.h"

#include <stdexcept>

namespace flash {

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
#if defined(FLASH_WITH_AVX512)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
        names.emplace_back(avx512_kernels().name);
    }
#endif
    names.emplace_back(portable_kernels().name);
    return names;
}

const Kernels& kernels_named(const std::string& isa) {
    for (const auto& name : supported_isas()) {
        if (name != isa) continue;
#if defined(FLASH_WITH_AVX512)
        if (name == avx512_kernels().name) return avx512_kernels();
#endif
        return portable_kernels();
    }
    throw std::invalid_argument("isa (" + isa + ") is not supported by this CPU or build");
}

} // namespace flash
