// The AVX2 kernel table. Only this file is compiled with its flags; it is entered after a CPU check.
#include "linear_ymm.h"

namespace flash {

const Kernels& avx2_kernels() {
    static constexpr Kernels table = kernel_table("avx2");
    return table;
}

} // namespace flash
