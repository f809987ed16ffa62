# Doxygen's filter: what it needs of the headers' comments and a reader does not.

{
    # A function's name is linked where it is marked or has parentheses. In indented blocks it stays.
    if (/^( \*|\/\*\*) ? ? ?[^ @]|^ \* (@retval|          )|\/\*\*</) {
        gsub(/bn_[a-z0-9]+_[a-z0-9_]+/, "#&")
        while (match($0, /#bn_[a-z0-9_]+\(/))
            $0 = substr($0, 1, RSTART - 1) substr($0, RSTART + 1)
    }
    # An indented block is one only behind three lines.
    if (held != "") {
        print $0 == " *" ? "/**\n * " substr(held, 5) : held
        held = ""
    }
    if (/^\/\*\* [^@]/ && !/\*\/$/)
        held = $0
    else
        print
}
