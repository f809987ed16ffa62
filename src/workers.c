/* See workers.h; and the exported call that says who they are. */
#include "workers.h"

#include <string.h>

_Static_assert(BNI_TALLY == BNI_MORE, "there is room behind the sums");

bool bni_all_finite(const float *values, size_t count) {
    bool finite = true;
    for (size_t d = 0; values != NULL && d < count; d++) {
        finite = finite && bni_finite(bni_load_float(values + d));
    }
    return finite;
}

void bni_add_up(const bn_layer *layer, double *values, size_t count, bni_tally *tally) {
    const bn_comm comm = layer->internal.comm;
    memcpy(values + count, tally, sizeof *tally);
    if (comm.allreduce_sum(comm.context, values, count + BNI_TALLY) != 0) {
        *tally = (bni_tally){.faults = 1.0};
        return;
    }
    memcpy(tally, values + count, sizeof *tally);
}

bn_status bni_judge(const bni_tally *all, bool needs_variance) {
    if (all->faults != 0.0 || (all->unfit != 0.0 && all->occupied != 0.0)) {
        return BN_STATUS_COMM_FAILED;
    }
    const bool few = all->occupied == 0.0 || (needs_variance && !(all->values > 1.0));
    return few ? BN_STATUS_TOO_FEW_VALUES : BN_STATUS_OK;
}

bn_status bni_withdraw(const bn_layer *layer, size_t reductions, size_t count, bn_status status) {
    double *values = bni_scratch_of(layer).sums.chunks;
    for (size_t r = 0; r < reductions; r++) {
        bni_tally tally = {.faults = 1.0};
        memset(values, 0, count * sizeof *values);
        bni_add_up(layer, values, count, &tally);
    }
    return status;
}

bn_status bn_layer_set_comm(bn_layer *layer, bn_comm comm) {
    if (layer == NULL || (comm.allreduce_sum == NULL && comm.context != NULL)) {
        return BN_STATUS_NULL_POINTER;
    }
    if (!bni_layer_ready(layer) || layer->internal.options.inference_only) {
        return BN_STATUS_BAD_STATE;
    }
    layer->internal.comm = comm;
    return BN_STATUS_OK;
}
