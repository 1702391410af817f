// The AVX-VNNI kernel table. Only this file is compiled with its flags; it is entered after a CPU check.
#include "linear_ymm.h"

namespace flash {

const Kernels& avxvnni_kernels() {
    static constexpr Kernels table = kernel_table("avxvnni");
    return table;
}

} // namespace flash
