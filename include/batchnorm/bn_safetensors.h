/* SPDX-License-Identifier: MIT */
/** @file
 * Layers in files that PyTorch and others read and write.
 *
 * A safetensors file (https://github.com/huggingface/safetensors) holds tensors by name. A layer of the
 * name NAME is there as PyTorch's state_dict names and types it:
 *
 *     NAME.weight, NAME.bias                 gamma, beta                 F32 [D], where learned
 *     NAME.running_mean, NAME.running_var    the running values          F32 [D], where kept
 *     NAME.num_batches_tracked               their count                 I64 [],  where they are kept
 *
 * and, which PyTorch's own files have not, in the metadata NAME.eps and NAME.momentum, numbers as text.
 * With the name "" they are "weight", "eps" and so on, as a module that is not inside another has them.
 * momentum is this library's, the weight of the old value: 1 minus PyTorch's.
 *
 * These calls allocate while they run. A layer's rules (bn_layer.h) hold for them too.
 */
#ifndef BATCHNORM_BN_SAFETENSORS_H
#define BATCHNORM_BN_SAFETENSORS_H

#include <batchnorm/bn_layer.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Saves a layer under a name. Where path is a file already, it must be a safetensors file: what it has
 * under the layer's seven names is replaced or, where the layer has no such thing, removed; its other
 * tensors, byte for byte, and its other metadata stay, and so do its permission bits (not its owner). A
 * new file has those of any new file, and metadata "format": "pt". A symbolic link is followed. Tensors
 * are put in the order of their elements' size, so that all are aligned.
 *
 * The file is written beside its place, synced, renamed, and its directory synced, so that at any time
 * the old one or the new one is there, whole. What a crash may leave behind is a .batchnorm-*.tmp. Of two
 * that save into one file at the same time, threads or processes, the last to rename wins, whose file has
 * what both had read: never a mixture, but the other's layer may be missing.
 *
 * Floats are saved as they are, NaN too; what the layer knows of running values beyond float is not. A
 * count beyond INT64_MAX is saved as that. Without running values, and in an inference_only layer,
 * momentum is not saved. May run with other calls that take the layer const.
 *
 * Returns BN_STATUS_OK, or, with the file as it was,
 * @retval BN_STATUS_NULL_POINTER   layer, path or name is NULL
 * @retval BN_STATUS_BAD_STATE      the layer was not initialized
 * @retval BN_STATUS_BAD_OPTION     name is not UTF-8, or so long that the header would have more
 *                                  than the 100,000,000 bytes that it may; layer->options.eps, or
 *                                  .momentum where it is saved, was set to a bad value
 * @retval BN_STATUS_BAD_FORMAT     path is a file that is no safetensors file, as
 *                                  bn_layer_load_safetensors says (an empty one is none)
 * @retval BN_STATUS_IO             path is no regular file or a link that leads nowhere; or
 *                                  reading, writing, syncing or renaming failed. If it was syncing
 *                                  the directory, the last step, the new file is there already
 * @retval BN_STATUS_OUT_OF_MEMORY  malloc failed */
BN_API bn_status bn_layer_save_safetensors(const bn_layer *layer, const char *path,
                                           const char *name);

/** Loads what a file has under a name into the layer: gamma, beta, the running values and their count,
 * into the caller's arrays as into the layer's own. All is read and checked before anything is
 * written. What the layer knew of its running values beyond float is forgotten: what it infers depends
 * on the file alone. What it has from a forward before stays, though gamma is another now. The rest of
 * the file may hold anything that such files may.
 *
 * The file must have exactly those of weight, bias, running_mean and running_var that the layer has, F32,
 * F64 (rounded to the nearest float), F16 or BF16, [D] each; NaN and Inf are loaded as they are.
 * num_batches_tracked may be missing, and is 0 then. Where it has NAME.eps, and NAME.momentum for a layer
 * that keeps running values and is not inference_only, layer->options must have the same, to a
 * millionth: so that a mismatch is seen. To load nevertheless, set these as the file has them.
 *
 * Returns BN_STATUS_OK, or, with the layer as it was,
 * @retval BN_STATUS_NULL_POINTER   layer, path or name is NULL
 * @retval BN_STATUS_BAD_STATE      the layer was not initialized
 * @retval BN_STATUS_OVERLAP        arrays that would be written overlap, which an inference_only
 *                                  layer's may
 * @retval BN_STATUS_IO             path is no regular file, or could not be opened or read
 * @retval BN_STATUS_BAD_FORMAT     the file is no safetensors file, whole and with nothing behind
 *                                  it: its header is longer than it may be, no UTF-8, not JSON as
 *                                  the format has it (whole numbers below 2^53, at most 64
 *                                  dimensions, no member but those known, no zero byte in a string)
 *                                  or names something twice, or its tensors have a length other
 *                                  than shape and dtype say, overlap or leave holes (dtypes that
 *                                  are not known may have any length). Or: a tensor of the layer's
 *                                  is missing, or there without a place for it, or of another dtype
 *                                  or shape; an F64 is finite, but not as a float; the count is
 *                                  negative; eps or momentum is no number
 * @retval BN_STATUS_BAD_OPTION     name is not UTF-8; eps or momentum differs, all else being right
 * @retval BN_STATUS_OUT_OF_MEMORY  malloc failed */
BN_API bn_status bn_layer_load_safetensors(bn_layer *layer, const char *path, const char *name);

#ifdef __cplusplus
}
#endif

#endif /* BATCHNORM_BN_SAFETENSORS_H */
