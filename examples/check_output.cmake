# Runs a program and checks its exit code and what it printed on both streams:
#   cmake -Dexit_code=N -Doutput=REGEX -P check_output.cmake -- PROGRAM ARGUMENT...

set(command "")
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
    if(DEFINED after_dashes)
        list(APPEND command "${CMAKE_ARGV${i}}")
    elseif(CMAKE_ARGV${i} STREQUAL "--")
        set(after_dashes ON)
    endif()
endforeach()

execute_process(COMMAND ${command}
    RESULT_VARIABLE result OUTPUT_VARIABLE printed ERROR_VARIABLE printed)
message("${printed}")
if(NOT result STREQUAL exit_code)
    message(FATAL_ERROR "exit code ${result} instead of ${exit_code}")
endif()
if(NOT printed MATCHES "${output}")
    message(FATAL_ERROR "the output does not match: ${output}")
endif()
