# Draws the learning curves that `digits --curves FILE` writes:
#   gnuplot -c curves.gp FILE digits.png

curves = ARG1
image = ARG2

set terminal pngcairo size 1200,460 font "Sans,12" background "white"
set output image

array rates[3] # read before any range is set, which `stats` would heed
do for [i = 1:3] {
    stats curves using 1 index i - 1 nooutput
    rates[i] = STATS_max
}

set multiplot layout 1,3 title "Hand-written digits: test error, mean of three splits" \
    font ",15" margins 0.07,0.985,0.14,0.80 spacing 0.035,0
set logscale y
set yrange [0.9:110]
set ytics ("1" 1, "2" 2, "5" 5, "10" 10, "20" 20, "50" 50, "100" 100)
set xrange [0.5:20.5]
set xtics 5
set grid ytics linecolor rgb "#dddddd" linetype 1
set border 3
set tics nomirror
set xlabel "epoch"

with = "#0060ad"
without = "#dd6e00"
bf16 = "#00a0a0"

do for [i = 1:3] {
    set title sprintf("learning rate %g", rates[i])
    if (i == 1) {
        set ylabel "test error, %"
        set key top right spacing 1.3
    } else {
        unset ylabel
        unset key
    }
    plot curves index i - 1 using 2:(100 - $11) with linespoints linewidth 2 pointtype 5 \
             pointsize 0.8 linecolor rgb without title "ReLU alone", \
         curves index i - 1 using 2:(100 - $5) with linespoints linewidth 2 pointtype 7 \
             pointsize 0.8 linecolor rgb with title "batch normalization", \
         curves index i - 1 using 2:(100 - $8) with lines linewidth 2 dashtype 2 \
             linecolor rgb bf16 title "the same of bfloat16"
}
unset multiplot
