// SPDX-License-Identifier: Apache-2.0
/*
 * The curves of a score as a drawing: efficiency and fakes against pT and eta, with binomial errors.
 */
#ifndef TM_CLI_PLOT_H
#define TM_CLI_PLOT_H

#include "client/score.h"

/* Writes an SVG; the file is replaced whole. options: for the titles. TM_E_FILE, TM_E_NO_MEMORY. */
tm_status_t tm_plot_score(const char *path, const tm_score_t *score,
                          const tm_score_options_t *options, tm_error_t *err);

#endif
