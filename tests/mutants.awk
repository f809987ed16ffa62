# The changes that can be made to C files, a line each: FILE LINE OFFSET LENGTH ORIGINAL REPLACEMENT,
# with tabs between, of lines that "FILE:LINE" in the file `live` names. Neither in comments, strings and
# assertions nor in what the preprocessor reads. Binary operators are told by the spaces around them.
BEGIN {
    while ((getline line <live) > 0) {
        is_live[line] = 1
    }
    split("+ - - + * / / * % / < <= <= < > >= >= > == != != == && || || && & | | & << >> >> << " \
          "+= -= -= += *= += |= &= &= |= ++ -- -- ++", pairs, " ")
    for (i = 1; i in pairs; i += 2) {
        other[pairs[i]] = pairs[i + 1]
    }
}

function blanks(count) { return sprintf("%" count "s", "") }

# A line with blanks in the place of what is not to be changed.
function masked(line,    out, rest, hidden) {
    if (in_directive || line ~ /^[ ]*#/) {
        in_directive = line ~ /\\$/
        return blanks(length(line))
    }
    rest = line
    while (rest != "") {
        if (in_comment) {
            hidden = match(rest, /\*\//) ? RSTART + 1 : length(rest)
            in_comment = RSTART == 0
        } else if (match(rest, /\/\*|"([^"\\]|\\.)*"|'([^'\\]|\\.)*'/)) {
            out = out substr(rest, 1, RSTART - 1)
            rest = substr(rest, RSTART)
            in_comment = rest ~ /^\/\*/
            hidden = in_comment ? 2 : RLENGTH
        } else {
            out = out rest
            break
        }
        out = out blanks(hidden)
        rest = substr(rest, hidden + 1)
    }
    in_assertion = in_assertion || out ~ /(_Static_assert|BNI_ASSERT)\(/
    if (in_assertion) {
        in_assertion = out !~ /;/
        return blanks(length(line))
    }
    return out
}

function offer(at, count, replacement,    original) {
    original = substr(text, at, count)
    gsub(/[ \n]+/, " ", original)
    print name "\t" line_number "\t" (at - 1) "\t" count "\t" original "\t" replacement
}

# The condition in the parentheses behind here.
function offer_condition(at, keyword,    i, depth) {
    for (i = at; depth > 0 || i == at; i++) {
        depth += (substr(code, i, 1) == "(") - (substr(code, i, 1) == ")")
    }
    if (keyword == "if") {
        offer(at + 1, i - at - 2, "true")
    }
    offer(at + 1, i - at - 2, "false")
}

function offer_word(word, at, before, after) {
    if (word ~ /^(if|while)$/ && after ~ /^ \(/) {
        offer_condition(at + length(word) + 1, word)
    } else if (word ~ /^(true|false)$/) {
        offer(at, length(word), word == "true" ? "false" : "true")
    } else if (word ~ /^BN_STATUS_/ && before ~ /(return|[?:]) $/) {
        offer(at, length(word), word == "BN_STATUS_OK" ? "BN_STATUS_BAD_STATE" : "BN_STATUS_OK")
    } else if (word ~ /^[0-9]/) {
        offer(at, length(word), "(" word " + 1)")
    } else if (word == "!" && after ~ /^[A-Za-z(]/) {
        offer(at, 1, "")
    } else if (word in other && (word ~ /^(\+\+|--)$/ || (before ~ / $/ && after ~ /^( |$)/))) {
        offer(at, length(word), other[word])
    }
}

function offer_line(line, first,    at, token) {
    sub(/ +$/, "", line)
    if (behind ~ /[;{}:]$/ && line ~ /^ +[A-Za-z_][^ ]*( [-+*|&]?= .*|\(.*\)|\+\+);$/) {
        match(line, /[^ ]/)
        offer(first + RSTART - 1, length(line) - RSTART, "") # all but the semicolon
    }
    if (line != "") {
        behind = line
    }
    token = "[A-Za-z_][A-Za-z_0-9]*|0x[0-9a-fA-F.]+(p[-+]?[0-9]+)?[uUlLfF]*|" \
            "[0-9]+(\\.[0-9]*)?(e[-+]?[0-9]+)?[uUlLfF]*|[-+*\\/%<>=!&|^~]+"
    for (at = 1; match(substr(line, at), token); at += RLENGTH) {
        at += RSTART - 1
        start = at
        size = RLENGTH
        offer_word(substr(line, start, size), first + start - 1, substr(line, 1, start - 1),
                   substr(line, start + size))
        RLENGTH = size # the calls may have matched, too
    }
}

function offer_file(    lines, i, n, first) {
    n = split(code, lines, "\n")
    first = 1
    behind = "}"
    for (i = 1; i <= n; i++) {
        line_number = i
        if ((name ":" i) in is_live) {
            offer_line(lines[i], first)
        } else if (lines[i] !~ /^ *$/) {
            behind = lines[i]
        }
        first += length(lines[i]) + 1
    }
}

FNR == 1 {
    if (name != "") {
        offer_file()
    }
    name = FILENAME
    text = code = ""
    in_comment = in_directive = in_assertion = 0
}
{
    text = text $0 "\n"
    code = code masked($0) "\n"
}
END { offer_file() }
