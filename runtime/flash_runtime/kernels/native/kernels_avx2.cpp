// The AVX2 kernel table. Only this file is compiled with its flags; it is entered after a CPU check.
#include "attention.h"
#include "linear_ymm.h"

namespace flash {

const Kernels& avx2_kernels() {
    static constexpr Kernels table{"avx2", quantise, linear_of_any_format, attention, rms_norm, rope, swiglu, softmax,
                                   router, add_scaled, to_bf16, quantise_halves, round_bf16};
    return table;
}

} // namespace flash
